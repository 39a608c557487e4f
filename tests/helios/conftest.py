import pytest
import structlog


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Log lines of provoked faults say nothing to whoever reads the tests' output, and formatting them takes time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
