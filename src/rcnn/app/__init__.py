"""From a composed config to a finished run; the only place that knows Hydra."""
