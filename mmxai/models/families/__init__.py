"""One declarative adapter a file: `FAMILY`, or `family(config)` where the structure depends on the config."""
