"""config.json → a checked spec. Pure: nothing here looks at the host or imports ``ociruntime.host``."""
