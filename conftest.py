"""`pytest` runs the book: each notebook of `nbs/` and `tests_nb/` is one test, run by nbdev's rules
in a process of its own.

    pytest                                    # all of it, as many notebooks at a time as there are cores (pytest-xdist)
    pytest --stories                          # the long ones that this leaves out: `stories` in pyproject.toml
    pytest nbs/1_generator/12_ops.ipynb --nb-flags slow   # one chapter, with the cells marked `#| slow`

Importing PyTorch and its company takes longer than many a chapter. It is done once, in a server that only imports;
each notebook runs in a process forked from it.
"""
import atexit
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent


# ---- what pytest sees

def pytest_addoption(parser):
    parser.addoption('--nb-flags', default='',
                     help='run the cells of these flags too, of those that tst_flags in settings.ini leaves out')
    parser.addini('stories', 'notebooks that take minutes, which only --stories and their own names run', 'linelist')
    parser.addoption('--stories', action='store_true', help="run the long notebooks, and none but these")
    parser.addoption('--nb-timeout', type=float, default=1800, help='seconds a notebook may take')


def pytest_collect_file(file_path, parent):
    if file_path.suffix == '.ipynb' and not file_path.name.startswith(('_', '.')):
        return Notebook.from_parent(parent, path=file_path)


def pytest_xdist_auto_num_workers(config):
    "For `-n auto`: a worker for each core that this process may use; none for a single notebook"
    return 0 if len(config.args) == 1 and config.args[0].endswith('.ipynb') else usable_cores()


def usable_cores():
    "Cores that this process may use"
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    "Long notebooks run when they are asked for; a plain `pytest` that finds none in one of its folders is an error"
    check_folders(config, items)
    named = {Path(config.invocation_params.dir, a).resolve() for a in config.args if a.endswith('.ipynb')}
    stories, wanted = {config.rootpath/p for p in config.getini('stories')}, config.getoption('--stories')
    left_out = [i for i in items if i.path not in named and (i.path in stories) != wanted]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [i for i in items if i not in left_out]


def check_folders(config, items):
    "A plain `pytest` that finds no notebook in one of its folders has tested less than it seems to"
    if config.args_source is config.ArgsSource.ARGS or config.invocation_params.dir != config.rootpath: return
    for folder in config.getini('testpaths'):
        if not any(isinstance(item, Cells) and item.path.is_relative_to(config.rootpath/folder) for item in items):
            raise pytest.UsageError(
                f"no notebook was found in {folder}/; 'testpaths' in pyproject.toml names the folders to look in")


class Notebook(pytest.File):
    "A notebook holds one test"
    def collect(self): yield Cells.from_parent(self, name='cells')


class Cells(pytest.Item):
    "All code cells of a notebook, in order, up to the first that fails"
    def reportinfo(self): return self.path, None, self.parent.nodeid

    def runtest(self):
        flags, limit = self.config.getoption('--nb-flags').split(), self.config.getoption('--nb-timeout')
        report, printed, code = in_new_process(self.path, flags, limit)
        if 'skipped' in report: pytest.skip(report['skipped'])
        if 'passed' in report: return
        ended = f'not finished within {limit:g} s' if code is None else f'its process ended with status {code}'
        raise CellError(readable(**{'error': ended, 'printed': printed, **report}))

    def repr_failure(self, excinfo):
        return Report(excinfo.value) if isinstance(excinfo.value, CellError) else super().repr_failure(excinfo)


class CellError(Exception):
    "A cell failed; the message is the report"


class Report:
    "What pytest prints of a failure: all of it below the notebook's name, the first line in its summary"
    def __init__(self, error):
        self.text, self.reprcrash = str(error), SimpleNamespace(message=str(error).splitlines()[0])
    def __str__(self): return self.text
    def toterminal(self, tw): tw.line(self.text)


PRELOADED = ['pytest', 'torch', 'torchvision', 'timm', 'matplotlib.pyplot', 'scipy.signal', 'scipy.stats', 'IPython',
             'execnb.shell', 'nbdev.process', 'fastcore.all', 'tqdm.auto', 'ipywidgets']


def in_new_process(path, flags, limit):
    "Run a notebook; return its report, what its process printed itself, and the exit status (None: out of time)"
    threads = max(1, usable_cores() // int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1)))
    os.environ.setdefault('OMP_NUM_THREADS', str(threads))                          # is read when PyTorch is imported
    context = multiprocessing.get_context('forkserver' if hasattr(os, 'fork') else 'spawn')
    if hasattr(os, 'fork'): context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder, 'report.json'), Path(folder, 'log.txt')
        log.touch()
        child = context.Process(target=run_there, args=(path.resolve(), report, log, flags))
        child.start()
        try: child.join(limit); code = child.exitcode
        finally:
            if child.is_alive():
                with suppress(AttributeError, ProcessLookupError): os.killpg(child.pid, signal.SIGKILL)
                child.kill(); child.join()
        return json.loads(report.read_text()) if report.exists() else {}, log.read_text(errors='replace'), code


def readable(error, cell=None, line=None, source='', trace='', outputs='', printed=''):
    "The report of a failure: cell, line and error first, then the cell, the way to the error, and what was printed"
    where = (f'cell {cell}' if cell else 'before the first cell') + (f', line {line}' if line else '')
    parts = [f'{where}: {error}']
    if source:
        parts.append('\n'.join(f"{'>' if i == line else ' '} {i:3}  {row}"
                               for i, row in enumerate(source.splitlines(), 1)))
    if trace: parts.append(trace.rstrip())
    for title, text in [('Printed by the cell', outputs), ('Printed by the process', printed)]:
        if text.strip(): parts.append('\n'.join([title + ':', *text.rstrip().splitlines()[-30:]]))
    return '\n\n'.join(parts) + '\n'


# ---- what runs in the process of its own

def run_there(path, report, log, flags):
    "Become the process of a notebook: its folder, its environment, its output in a file"
    if hasattr(os, 'setsid'): os.setsid()
    with log.open('w') as f:
        for fd in 1, 2: os.dup2(f.fileno(), fd)
    with open(os.devnull) as f: os.dup2(f.fileno(), 0)
    os.chdir(path.parent)
    path_there = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    os.environ |= {'IN_TEST': '1', 'PYTHONPATH': path_there}
    sys.path.insert(0, str(ROOT))
    try: run_notebook(path, report, flags)
    finally: atexit._run_exitfuncs(); sys.stdout.flush(); sys.stderr.flush()        # a forked process leaves without


def run_notebook(path, report, flags):
    "Run a notebook's cells as `nbdev_test` would; `report` always says how far it has come"
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell
    from fastcore.basics import str2bool
    from nbdev.config import get_config
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor, nb_lang

    def note(**kwargs): report.write_text(json.dumps(kwargs))

    nb = read_nb(path)
    for cell in nb.cells:
        cell.number, cell.whole = cell.idx_ + 1, cell.source  # FrontmatterProc and directives change both
    nb = NBProcessor(nb=nb, procs=FrontmatterProc, process=True).nb
    if str2bool(nb.frontmatter_.get('skip_exec', False)): return note(skipped='skip_exec in its front matter')
    if nb_lang(nb) != 'python': return note(skipped=f'its language is {nb_lang(nb)}')
    leave_out = set(get_config(path=ROOT).tst_flags.split()) - set(flags)

    def skipped(cell):
        flags = getattr(cell, 'directives_', {})
        never = flags.get('eval:', [''])[0].lower() == 'false' or 'nbdev_export(' in cell.source
        return cell.cell_type != 'code' or never or leave_out & flags.keys()

    shell = CaptureShell(path)
    shell._showtraceback = lambda *_: None                                          # the report has it, without colours
    for cell in nb.cells:
        if skipped(cell): continue
        name = f'{path.name}, cell {cell.number}'
        shell.compile.get_code_name = lambda *_, name=name: name                    # what tracebacks show as the file
        if not cell.source.lstrip().startswith('%%'):
            cell.source = cell.whole  # with directives, so that lines are those of the cell
        note(cell=cell.number, source=cell.whole)
        shell.cell(cell)
        if shell.exc: return note(cell=cell.number, source=cell.whole, **failure(shell.exc, name, cell))
    note(passed=True)


def failure(exc, name, cell):
    "Line, error, traceback without the machinery's own frames, and the text the cell printed"
    full = traceback.TracebackException.from_exception(exc)
    first = next((i for i, frame in enumerate(full.stack) if frame.filename == name), len(full.stack))
    line = full.stack[first].lineno if first < len(full.stack) else getattr(exc, 'lineno', None)
    if cell.source is not cell.whole: line = None  # a magic ran it, and counts lines its own way
    full.stack = traceback.StackSummary.from_list(full.stack[first:])
    error = shorten(list(full.format_exception_only())[-1], 200)
    outputs = ''.join(''.join(o['text']) for o in cell.outputs if o['output_type'] == 'stream')
    return dict(line=line, error=error, trace=''.join(full.format()), outputs=outputs)
