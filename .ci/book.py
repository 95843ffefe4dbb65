"""Make a website of the book: chapters and stories with their stored outputs, a table of contents and a search.

usage: python .ci/book.py [FOLDER] [PARTS]      (default: _book, all parts; 13: parts 1 and 3 only)

The order is that of _quarto.yml, the front page is README.md. Pages are made by MkDocs and mkdocs-jupyter, and
nothing is run. A link or a picture that leads nowhere is an error. Put FOLDER on any web server, or look at it by
`python -m http.server -d FOLDER`.
"""
import json
import os
import re
import sys
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urldefrag

import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'(\]\((?!\w+:|#)[^)\s#]+)\.ipynb')      # the target of a link to a notebook
REFERENCE = re.compile(r'<(?:a|img)\b[^>]*?\b(?:href|src)="(?!\w+:|//|#)([^"]+)"')
MATHJAX = 'https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js'
STYLE = '''.md-grid { max-width: 84rem }
.jupyter-wrapper .jp-InputPrompt, .jupyter-wrapper .jp-OutputPrompt { display: none !important }
'''
INSTEAD = {'](nbs)': '](nbs/0_sitting/00_sitting.html)', '](tests_nb)': '](tests_nb/digits.html)',
           '](LICENSE)': '](https://www.apache.org/licenses/LICENSE-2.0)'}


def shown(nb):
    "A notebook as it is read: without hidden cells and directives, its links to notebooks turned into links to pages"
    cells = []
    for c in nb['cells']:
        source = ''.join(c['source'])
        if re.search(r'^#\|\s*(hide|default_exp)\b', source, re.M): continue
        if c['cell_type'] == 'markdown': source = LINK.sub(r'\1.html', source).replace('](../index.', '](../../index.')
        else: source = re.sub(r'^#\|.*\n?', '', source, flags=re.M)
        cells.append({**c, 'source': source})
    return {**nb, 'cells': cells}


def title(path):
    "The first heading of a notebook"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return next(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown').splitlines()[0].lstrip('# ')


def contents(parts):
    "The table of contents, as MkDocs wants it: parts and chapters of _quarto.yml, then the stories"
    book = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['book']['chapters']
    nav = [{'sgxl': 'index.md'}]
    for p in book:
        if not isinstance(p, dict) or parts and p['chapters'][0][0] not in parts: continue
        nav.append({p['part']: [{f'{Path(c).name[:2]}. {title(ROOT/"nbs"/c)}': f'nbs/{c}'} for c in p['chapters']]})
    stories = [] if parts else [{title(s): f'tests_nb/{s.name}'} for s in sorted((ROOT/'tests_nb').glob('*.ipynb'))]
    return nav + [{'Stories': stories}] * bool(stories)


def settings(docs, dest, nav):
    "Those of MkDocs"
    theme = dict(name='material', font=False, features=['navigation.footer', 'search.highlight'])
    notebooks = {'mkdocs-jupyter': dict(execute=False, include_source=False, ignore_h1_titles=True)}
    return dict(site_name='sgxl', docs_dir=str(docs), site_dir=str(dest), use_directory_urls=False, nav=nav,
                theme=theme, plugins=['search', notebooks], extra_css=['book.css'], extra_javascript=[MATHJAX],
                validation=dict(links=dict(not_found='ignore')),                # `lost` finds more
                markdown_extensions=['tables', {'pymdownx.arithmatex': dict(generic=True)}])


def lost(dest):
    "References of all pages that lead nowhere"
    for page in dest.rglob('*.html'):
        for target in REFERENCE.findall(page.read_text(encoding='utf-8')) if page.name != '404.html' else ():
            file = unquote(urldefrag(target)[0])
            if not (page.parent/file).exists(): yield f'{page.relative_to(dest)}: {target}'


def main(dest, parts=''):
    dest = dest.resolve()
    nav = contents(parts)
    with TemporaryDirectory() as tmp:
        docs = Path(tmp, 'docs')
        copytree(ROOT/'nbs'/'images', docs/'nbs'/'images')
        (docs/'book.css').write_text(STYLE)
        front = LINK.sub(r'\1.html', (ROOT/'README.md').read_text(encoding='utf-8'))
        for old, new in INSTEAD.items(): front = front.replace(old, new)
        (docs/'index.md').write_text(front, encoding='utf-8')
        for part in nav[1:]:
            for chapter in next(iter(part.values())):
                name, = chapter.values()
                (docs/name).parent.mkdir(parents=True, exist_ok=True)
                nb = shown(json.loads((ROOT/name).read_text(encoding='utf-8')))
                (docs/name).write_text(json.dumps(nb), encoding='utf-8')
        config = Path(tmp, 'mkdocs.yml')
        config.write_text(yaml.safe_dump(settings(docs, dest, nav)), encoding='utf-8')
        os.chdir(tmp)                                                           # where mkdocs-jupyter keeps a cache
        build(load_config(str(config)))
    if not parts and (missing := sorted(lost(dest))):
        sys.exit('\n'.join(['the book points at what is not there:', *missing]))


if __name__ == '__main__': main(Path(sys.argv[1] if len(sys.argv) > 1 else '_book'), *sys.argv[2:3])
