"""What every test shares: no network, one thread, no display, and one cache of warmed-up tiny models per session."""

import gc
import os
from collections.abc import Iterator

import pytest

# Set before any test module imports a library that reads them once.
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="Agg", TOKENIZERS_PARALLELISM="false")


def pytest_collection_finish() -> None:
    """Take what was imported out of later collections: each would walk the heap of torch and transformers again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the session's own, shared by xdist workers, unless `RLFT_CACHE` names one to keep."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLFT_CACHE", os.environ.get("RLFT_CACHE", str(shared / "rlft-cache")))
        yield
