"""The cache of encoded images against a plain list of what was used last."""

import hypothesis.strategies as st
import numpy as np
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgvision.runtime.engine import _ImageCache

LIMIT = 100  # bytes
KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])


class CacheStates(RuleBasedStateMachine):
    """The model: keys and sizes, least recently used first."""

    def __init__(self):
        super().__init__()
        self.cache, self.model, self.features = _ImageCache(LIMIT), {}, {}

    @rule(key=KEYS, size=st.sampled_from([0, 1, 40, 60, 99, 100, 250]))
    def put(self, key, size):
        features = np.zeros(size, np.uint8)
        self.cache.put(key, features)
        if key not in self.model:
            self.model[key], self.features[key] = size, features
        while sum(self.model.values()) > LIMIT and len(self.model) > 1:
            self.model.pop(next(iter(self.model)))

    @rule(key=KEYS)
    def get(self, key):
        found = self.cache.get(key)
        if key in self.model:
            assert found is self.features[key]
            self.model[key] = self.model.pop(key)  # now the last
        else:
            assert found is None
            self.features.pop(key, None)

    @invariant()
    def keeps_what_the_model_keeps(self):
        assert list(self.cache._entries) == list(self.model)
        assert self.cache._bytes == sum(self.model.values())


TestCacheStates = CacheStates.TestCase
