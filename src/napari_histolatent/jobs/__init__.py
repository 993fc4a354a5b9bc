"""The child process's entry point, one function per kind of work, and the workflows that all faces share."""
