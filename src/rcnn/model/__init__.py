"""The detectors: modules and settings, in the order of the data flow."""
