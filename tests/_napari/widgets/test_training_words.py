from __future__ import annotations

from dataclasses import replace

import pytest

from napari_histolatent._napari.widgets.training_words import (
    bytes_text,
    described,
    device_titles,
    estimate_text,
    health_text,
    in_dock,
    seconds_left,
    standing_words,
)
from napari_histolatent.jobs.probe import Device, Estimate
from napari_histolatent.runs import RunStatus

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (RunStatus("starting"), "Starting"),
        (RunStatus("new"), "New, not started yet\nResume starts it."),
        (RunStatus("gone", 5, 10), "Its folder is gone."),
        (RunStatus("running", 5, 10), "Running: step 5 of 10"),
        (
            RunStatus(
                "running", 500, 6500, {"a": 1.234, "b": 0.5}, {"images_per_second": 80.0, "device": "cpu"}
            ),
            # 6,000 steps of 16 patches at 80 a second
            "Running: step 500 of 6,500, 20 min left\nLoss: a 1.23, b 0.50\n80 images/s on cpu",
        ),
        (RunStatus("finished", 10, 10, {}, {"images_per_second": 80.0}), "Finished: step 10 of 10"),
        (RunStatus("failed", 3, 10, message="No device."), "Failed: step 3 of 10\nNo device."),
        (
            RunStatus("failed", 3, 10, {}, {"checkpoint": "c"}, "Disk full."),
            "Failed: step 3 of 10\nDisk full.\nResume tries again from its last checkpoint.",
        ),
    ],
)
def test_a_state_in_words(status: RunStatus, words: str) -> None:
    assert described(status, {"batch_size": 16}) == words


def test_a_crash_says_what_can_be_done() -> None:
    kept = {"checkpoint": "checkpoints/step-00000020"}
    with_one = described(RunStatus("interrupted", 30, 100, {}, kept), {})
    without = described(RunStatus("interrupted", 30, 100), {})
    assert with_one.startswith("Interrupted: step 30 of 100\nIts process ended without a word")
    assert with_one.endswith("Resume goes on from its last checkpoint, of step 20.")
    assert without.endswith("Resume begins anew.")


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        (
            "/a b is running already; stop it first with `histolatent stop /a b`.",
            "/a b is running already; stop it first with Stop.",
        ),
        (
            "/r has finished; there is nothing to resume: give more --steps than it has done to train on.",
            "/r has finished; Fork trains on from it.",
        ),
        (
            "The checkpoint has done 20 steps of 20 already; give more --steps than 20.",
            "The checkpoint has done 20 steps of 20 already; set more steps than 20.",
        ),
        ("The disk is full.", "The disk is full."),
    ],
)
def test_the_dock_names_its_own_controls(sentence: str, words: str) -> None:
    assert in_dock(sentence) == words


def test_a_pause_is_no_end() -> None:
    status = RunStatus("stopped", 30, 100, {}, {"checkpoint": "c"})
    assert described(status, {}, is_paused=True).startswith("Paused: step 30 of 100")
    assert described(status, {}).startswith("Stopped: step 30 of 100")
    assert described(RunStatus("finished", 100, 100), {}, is_paused=True).startswith("Finished")


def test_how_long_it_takes_follows_from_its_speed() -> None:
    status = RunStatus("running", 40, 100, {}, {"seconds_per_step": 0.5, "images_per_second": 1.0})
    assert seconds_left(status, {"batch_size": 8}) == 30.0
    assert (
        seconds_left(RunStatus("running", 40, 100, {}, {"images_per_second": 4.0}), {"batch_size": 8})
        == 120.0
    )
    assert seconds_left(RunStatus("running", 40, 100), {"batch_size": 8}) is None
    assert seconds_left(RunStatus("starting"), {}) is None


def test_health_in_words() -> None:
    assert health_text({}) == ""
    assert health_text({"accuracy": 0.9, "n": 20}) == "Accuracy 0.900 on 20 held-out patches"
    metrics = {
        "kid": 0.01234,
        "kid_random": 0.5,
        "pixel_sd": 0.15,
        "pixel_sd_real": 0.2,
        "discriminator_real": 1.5,
        "discriminator_fake": -0.25,
        "sample_distance": 3.0,
        "sample_distance_real": 4.0,
        "warnings": ["One."],
    }
    assert health_text(metrics) == (
        "KID 0.0123; KID in random features 0.5; contrast 75% of real patches'; "
        "mean score of real 1.50, of generated -0.25; variety 75% of real patches'"
    )
    assert health_text({"kid": 0.5, "kid_random": 0.5}) == "KID in random features 0.5", (
        "without a judge they are one"
    )
    assert health_text({"kid": None, "pixel_sd": 1.0, "pixel_sd_real": 0.0}) == ""


def test_where_a_run_stands_in_a_table() -> None:
    status = RunStatus(
        "running",
        500,
        2000,
        {"generator": 1.2345, "cross_entropy": 0.5},
        {"images_per_second": 80.0, "device": "cpu"},
    )
    metrics = {
        "kid": 0.01234,
        "kid_random": 0.5,
        "kid_features": "0123abcd",
        "pixel_sd": 0.15,
        "pixel_sd_real": 0.2,
        "copies": 0.05,
        "discriminator_right": 0.75,
        "discriminator_real": 1.5,
        "discriminator_fake": -0.25,
        "sample_distance": 3.0,
        "sample_distance_real": 0.0,
        "nearest_distance": 3.0,
    }
    assert standing_words(status, metrics, {"batch_size": 16}) == {
        "State": "Running",
        "Steps done": "500 of 2,000 (25%)",
        "Time left": "5 min",
        "Speed": "80.0 images/s on cpu",
        "Loss, generator": "1.23",
        "Loss, cross entropy": "0.5",
        "KID, judge's features": "0.0123",
        "KID, random features": "0.5",
        "Contrast": "75% of real patches'",
        "Copies of training patches": "5%",
        "Discriminator is right": "75% of the time",
        "Score of real and generated": "1.50 and -0.25",
    }
    judged = {"accuracy": 0.9, "n": 617, "kid": 0.5, "kid_random": 0.5}
    assert standing_words(RunStatus("gone"), judged, {}) == {
        "State": "Folder is gone",
        "KID, random features": "0.5",
        "Accuracy, held-out patches": "90.0% of 617",
    }
    assert standing_words(RunStatus("new"), {"kid": None, "copies": "x"}, {}) == {
        "State": "New, not started yet"
    }


def test_an_estimate_in_words() -> None:
    estimate = Estimate(0.25, 64.0, "cuda:0", 10**8, 3 * GB, 4800, 2 * GB)
    assert estimate.seconds == 1200.0
    text = estimate_text(estimate, free_bytes=50 * GB)
    assert text.startswith("About 20 min for 4,800 steps: 250 ms a step, 64 images/s on cuda:0")
    assert "3.0 GB of memory, 2.0 GB on the disk (50.0 GB free)." in text
    assert "choose another folder" in estimate_text(estimate, free_bytes=GB)
    assert estimate_text(estimate, free_bytes=None).endswith("2.0 GB on the disk.")
    more = replace(estimate, measuring_seconds=120.0, encoder_seconds=480.0)
    assert estimate_text(more, free_bytes=None).startswith(
        "About 30 min (2 min for measuring and 8 min for the encoder among it) for 4,800 steps: 250 ms a step"
    )
    assert "measuring" not in estimate_text(replace(estimate, measuring_seconds=1.0), free_bytes=None)
    assert [bytes_text(n) for n in (1, 30 * 10**6, 99 * 10**6, GB)] == ["1 MB", "30 MB", "99 MB", "1.0 GB"]


def test_devices_in_words() -> None:
    cpu = Device("cpu", "processor, 2 threads", 8 * GB, 5 * GB)
    gpu = Device("cuda:0", "H200", 140 * GB, 139 * GB)
    rows, why = device_titles([gpu, cpu])
    assert rows == [
        ("auto", "auto: cuda:0"),
        ("cuda:0", "cuda:0: H200, 140.0 GB (139.0 GB free)"),
        ("cpu", "cpu: processor, 2 threads, 8.0 GB (5.0 GB free)"),
    ]
    assert why.startswith("auto is cuda:0, H200")
    rows, why = device_titles([Device("cpu", "processor", None, None)])
    assert rows == [("auto", "auto: cpu"), ("cpu", "cpu: processor")]
    assert "no graphics processor" in why
