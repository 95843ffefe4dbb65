"""Make README.md from nbs/index.ipynb.   usage: python .ci/readme.py [--check]

Links and pictures are relative to nbs/ in the notebook, and are turned to where README.md stands.
One that leads nowhere is an error.
With --check nothing is written; the exit status is 1 if README.md is not what the notebook makes.
"""
import re
import sys
from pathlib import Path
from posixpath import normpath

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'(\]\()(?!\w+:|#)([^)\s]+)')     # `](target` of links and pictures, but neither URLs nor anchors


def markdown():
    "The text of README.md"
    nb = nbformat.read(ROOT/'nbs'/'index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*hide\b', c.source, re.M)]
    text, resources = MarkdownExporter().from_notebook_node(nb)
    if resources['outputs']:
        sys.exit('index.ipynb has a picture among its outputs; save it in nbs/images/ and show it with ![…](images/…)')
    text = LINK.sub(lambda m: m[1] + normpath('nbs/' + m[2]), text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def main(check):
    text, path = markdown(), ROOT/'README.md'
    missing = sorted({target for _, target in LINK.findall(text) if not (ROOT/target.split('#')[0]).exists()})
    old = path.read_text(encoding='utf-8') if path.exists() else ''
    if not check: path.write_text(text, encoding='utf-8')
    if check and old != text:
        sys.exit('README.md is not what nbs/index.ipynb makes; run `python .ci/readme.py` and commit the result')
    if missing: sys.exit('README.md points at what is not there: ' + ', '.join(missing))


if __name__ == '__main__': main('--check' in sys.argv[1:])
