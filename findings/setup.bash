# Sourced by each finding: a folder that is removed on exit, with a virtual environment of its own.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"

install() { "$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "$@"; }

# Runs the program on standard input away from the repository, so that none of its modules are seen.
run_python() { (cd "$work" && "$work/venv/bin/python" -W ignore -); }
