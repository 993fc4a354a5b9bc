"""The docks. Each is a dumb view (controls, signals out, setters in) and a binding that gives it life."""
