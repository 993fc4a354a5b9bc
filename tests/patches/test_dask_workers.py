"""Which worker does what when some cannot: one small cluster of threads in this process."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.errors import SlideError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

distributed = pytest.importorskip("distributed")

from napari_histolatent.patches import _dask_workers  # noqa: E402  # needs distributed

pytestmark = pytest.mark.filterwarnings("ignore")


MADE: list[tuple[int, bool]] = []
"""What was made and whether by the sick worker; a list of the test's own would be a copy in each worker."""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def doubt(result: Any, error: Exception | None) -> int:
    return int(isinstance(error, SlideError)) + (result or {}).get("failed", 0)


def test_what_is_missing_on_one_worker_is_asked_of_another(client: Any) -> None:
    sick = sorted(client.nthreads())[0]

    def work(item: int) -> dict[str, int]:
        if item == 7 or distributed.get_worker().address == sick:
            msg = f"{item} is not there"
            raise SlideError(msg)
        return {"item": item}

    outcomes = sorted(_dask_workers.DaskWorkers(client).run(work, range(20), doubt=doubt), key=lambda v: v[0])
    assert [i for i, _, _ in outcomes] == list(range(20))
    assert [i for i, _, error in outcomes if error is not None] == [7]
    assert str(outcomes[7][2]) == "7 is not there"


def test_the_less_doubtful_of_two_results_is_the_last_that_was_made(client: Any) -> None:
    sick, made = sorted(client.nthreads())[0], MADE
    made.clear()

    def work(item: int) -> dict[str, int]:
        here = distributed.get_worker().address == sick
        sys.modules[__name__].MADE.append((item, here))
        return {"failed": 3 if here else 1}

    outcomes = list(_dask_workers.DaskWorkers(client).run(work, range(6), doubt=doubt))
    assert [result for _, result, _ in outcomes] == [{"failed": 1}] * 6
    for item in range(6):
        tried = [here for i, here in made if i == item]
        assert tried in ([True, False], [False, True, False])


def test_every_item_comes_once_and_a_stop_is_heard_while_waiting(client: Any) -> None:
    workers = _dask_workers.DaskWorkers(client)
    assert sorted(i for i, _, _ in workers.run(abs, range(50))) == list(range(50))

    def stop() -> None:
        raise KeyboardInterrupt

    outcomes = workers.run(time.sleep, [1.0], on_wait=stop)
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)


def test_it_is_not_waited_for_ever_for_workers(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = _dask_workers.DaskWorkers(client)
    monkeypatch.setattr(_dask_workers, "_NO_WORKERS_SECONDS", 0.1)
    monkeypatch.setattr(client, "nthreads", dict)
    with pytest.raises(UserError, match=r"has no workers left; start some and give the same command"):
        list(workers.run(time.sleep, [2.0]))
