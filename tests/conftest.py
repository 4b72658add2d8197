"""What every test sees: 8 simulated CPU devices, no compilation cache, and the shared data if it is there."""

import os

# Before the first import of jax, for this process and for those that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
# Most of a test's time is compilation, and a third of that is optimisation, which changes no result that a test looks at. To
# test the code as users run it: JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
os.environ.pop("JAXPRM_DATA", None)
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("jaxprm", deadline=None, max_examples=50, derandomize=True, print_blob=False,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("jaxprm")


def pytest_configure(config):
    if jax.device_count() != 8:
        raise pytest.UsageError(f"tests need 8 simulated CPU devices, jax shows {jax.device_count()}: "
                                "jax was started before tests/conftest.py could set JAX_NUM_CPU_DEVICES")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared`` beside the checkout (real data, golden numbers); tests that need it skip without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside the checkout")
    return folder


@pytest.fixture
def without_type_checks():
    """Switches jaxtyping and beartype off, as for a user: a wrong type then reaches the package's own validation."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
