__version__ = "0.1.0"


def __getattr__(name):
    "`sgxl.load`, looked up when it is first asked for: `import sgxl` alone stays free of PyTorch"
    if name != 'load': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .editing.models import load
    return load
