# Two commands matter: make demo and make test. Both set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
APT := xvfb xauth libgl1-mesa-dri libgl1 libegl1 libopengl0 libdbus-1-3 libxkbcommon-x11-0 \
  libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-xinerama0 libxcb-image0 libxcb-randr0 \
  libxcb-render-util0 libxcb-shape0 libxcb-xkb1
XVFB := xvfb-run -a -s "-screen 0 1600x1000x24"

BROWSERS := chromium-headless-shell chromium chromium-browser google-chrome

.PHONY: demo test lint docs bench bench-full check-slow check-pyqt6 install system browser peer

install: system $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -U pip
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e ".[napari,formats,test,docs]"
	touch $@

# A virtual X server and software OpenGL, for napari without a screen.
system:
	@if command -v xvfb-run >/dev/null && ldconfig -p | grep -q libxcb-cursor; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q $(APT); \
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null && command -v apt-get >/dev/null; then \
	  sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -q $(APT); \
	else \
	  echo "napari needs a virtual X server and OpenGL here; please install: $(APT)"; exit 1; \
	fi

# A headless Chromium, in which the tests open the report of a run.
browser:
	@for b in $(BROWSERS); do if command -v $$b >/dev/null; then exit 0; fi; done; \
	SUDO=; [ "$$(id -u)" = 0 ] || SUDO="sudo -n"; \
	if command -v apt-get >/dev/null && $$SUDO apt-get update -q; then \
	  for b in $(BROWSERS); do \
	    $$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$b \
	      && command -v $$b >/dev/null && exit 0; \
	  done; \
	fi; \
	echo "No Chromium can be installed here; tests that open a report in it are skipped."

demo: install
	OMP_NUM_THREADS=1 $(BIN)/atomvae run pipelines/quickstart.yaml --out runs
	$(XVFB) $(BIN)/atomvae view runs/quickstart.atomvae.zarr --screenshot runs/quickstart.png
	$(BIN)/atomvae report runs/quickstart.atomvae.zarr --out runs/quickstart.html
	@echo "The picture is runs/quickstart.png, the report runs/quickstart.html; open the run with: $(BIN)/atomvae view runs/quickstart.atomvae.zarr"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint browser
	$(BIN)/npe2 validate atomvae
	OMP_NUM_THREADS=1 $(XVFB) $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

check-slow: install check-pyqt6
	OMP_NUM_THREADS=1 $(XVFB) $(BIN)/python -m pytest -q -m slow
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.model.family_table

# The plugin with the other binding of Qt: all packages of $(VENV), and PyQt6. PySide6 is found
# there, too, but can't be imported, so that no test uses it by mistake.
PYQT6 := .venv-pyqt6
SITE := -c "import sysconfig; print(sysconfig.get_path('purelib'))"

check-pyqt6: install $(PYQT6)/.installed
	OMP_NUM_THREADS=1 QT_API=pyqt6 PYTEST_QT_API=pyqt6 $(XVFB) $(PYQT6)/bin/python -m pytest -q \
	  tests/viewer

$(PYQT6)/.installed: $(STAMP)
	$(BIN)/python -m venv --clear $(PYQT6)
	$(PYQT6)/bin/pip install -q -c constraints.txt PyQt6
	@here=$$($(PYQT6)/bin/python $(SITE)) && there=$$($(BIN)/python $(SITE)) && \
	  echo "import site; site.addsitedir('$$there')" > "$$here/packages.pth" && \
	  echo "raise ImportError('this environment is for PyQt6')" > "$$here/PySide6.py"
	@QT_API=pyqt6 $(PYQT6)/bin/python -c \
	  "import qtpy, qtpy.QtCore; print(qtpy.API_NAME, qtpy.PYQT_VERSION, 'with Qt', qtpy.QT_VERSION)"
	touch $@

docs: install
	$(BIN)/mkdocs build --strict

# Full decoding takes and gives back large temporaries at each step; freed at once, they cost page
# faults, up to half of the CPU time. So both sides are timed with memory that is kept.
BENCH := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4000000000 \
  $(BIN)/python -m

bench: install
	$(BENCH) tests.atoms.bench_detect
	$(BENCH) tests.model.bench_limit
	$(BENCH) tests.model.bench_scale
	$(BENCH) tests.model.bench_train

# Hours; each part is written to build/bench_train.json, and what is there is not done again.
bench-full: bench
	$(BENCH) tests.model.bench_train "cards 48" "lattice 32" "lattice 24" "cards 24, 4 classes" "cards 48, 4 classes"

# AtomAI, which our tables are compared with, in an environment of its own.
PEER := .venv-peer
PEER_PIP := $(PEER)/bin/pip install -q -c constraints.txt

peer: $(PEER)/.installed

$(PEER)/.installed: constraints.txt
	@{ $(PYTHON) -m venv $(PEER) && $(PEER_PIP) torch && $(PEER_PIP) atomai==0.8.1 six; } || { \
	  echo "AtomAI 0.8.1 can't be installed here (see above); only its column of the tables" \
	    "needs it, all else works without."; exit 1; }
	@PYTHONPATH=tests/model $(PEER)/bin/python -W ignore -c \
	  "import peer; print('AtomAI', peer.load_atomai().__version__)" || { \
	  echo "AtomAI is installed in $(PEER) but can't be imported (see above); remove $(PEER) and" \
	    "run make peer again."; exit 1; }
	touch $@
