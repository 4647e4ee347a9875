"""The shipped library and a cluster, loaded once."""

import pytest

from tandem.manifests import Cluster
from tandem.rendering.library import load_library


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster(library=load_library())
