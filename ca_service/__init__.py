"""The trusted side of vtpm-ca: everything in here decides, signs or records."""
