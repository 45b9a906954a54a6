#!/usr/bin/env bash
# Make .venv hold exactly what requirements/ says, or see in milliseconds that it already does.
#
#   bash launch/setup.sh            what `make setup` and every other target call first
#   bash launch/setup.sh lock       compile requirements/*.txt anew from pyproject.toml
#   bash launch/setup.sh try-wheel  install dist/*.whl into an empty environment and start it
#
# Nothing outside the checkout is changed (uv keeps its cache where it always does).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
STAMP=$VENV/.set-up-for
PLATFORM=x86_64-manylinux_2_28

say() { printf '%s\n' "set-up: $*" >&2; }
fail() { say "$@"; exit 1; }

# --- uv: the one on PATH, else one of our own in .uv/ -----------------------------------------------------------------

runs() { "$@" >/dev/null 2>&1 </dev/null; }

find_uv() {
    if runs uv --version; then
        UV=uv
    elif runs .uv/bin/uv --version; then
        UV=.uv/bin/uv
    else
        install_uv
    fi
}

install_uv() {
    say "uv is not installed; putting one into .uv/"
    export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
    local python
    for python in python3 python; do
        runs "$python" -c 'import sys; assert sys.version_info >= (3, 8)' || continue
        rm -rf .uv
        if runs "$python" -m pip --version; then
            "$python" -m pip install --quiet --target .uv uv >&2 || true
        elif runs "$python" -c 'import ensurepip' && "$python" -m venv .uv >&2; then
            .uv/bin/python -m pip install --quiet uv >&2 || true
        fi
        UV=.uv/bin/uv
        if runs "$UV" --version; then return; fi
    done
    rm -rf .uv
    fail "cannot install uv: that needs Python with pip or venv; run: apt-get install -y python3-venv   (or install uv yourself), then again"
}

# --- Python 3.12 ------------------------------------------------------------------------------------------------------

is_312() { runs "$1" -I -c 'import sys; assert sys.version_info[:2] == (3, 12) and sys.implementation.name == "cpython"'; }

# Print a Python 3.12 that really runs. A pyenv shim may be called python3.12 and only say "command not found", so each
# candidate is started; pyenv and conda keep theirs where neither PATH nor uv looks.
find_python() {
    local candidate
    while IFS= read -r candidate; do
        if [ -n "$candidate" ] && is_312 "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(
        type -ap python3.12 python3 python || true
        ls -1d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12 2>/dev/null | sort -rV || true
        ls -1d "${CONDA_PREFIX:-/nonexistent}"/bin/python3.12 /opt/conda/bin/python3.12 \
            "$HOME"/{miniconda3,miniforge3,mambaforge,anaconda3}/{,envs/*/}bin/python3.12 2>/dev/null || true
        "$UV" python find 3.12 2>/dev/null || true
    )
}

# The scripts of an environment name the folder it was made in.
was_moved() { [ -f "$STAMP" ] && [ "$(head -n 1 "$STAMP")" != "$PWD" ]; }

make_venv() {
    if is_312 "$VENV/bin/python" && ! was_moved; then return; fi
    # Made anew, a link's target would be emptied: the environment of another checkout.
    [ ! -L "$VENV" ] || fail "$VENV is a link to $(readlink "$VENV"), which was set up for another folder; remove the link, then run this again"
    local python
    python=$(find_python)
    if [ -n "$python" ]; then
        say "making $VENV with $python"
        "$UV" venv --quiet --clear --prompt vla-cl --python "$python" "$VENV"
    else
        say "no Python 3.12 here; uv fetches one"
        "$UV" venv --quiet --clear --prompt vla-cl --python 3.12 "$VENV" || fail "found no Python 3.12 and could not fetch one;" \
            "install it (system package python3.12, 'pyenv install 3.12' or 'conda create -n py312 python=3.12'), then run this again"
    fi
}

# --- packages ---------------------------------------------------------------------------------------------------------

# hf-libero depends on packages without wheels, two of which are C++.
choose_requirements() {
    if runs c++ --version || runs g++ --version; then
        REQUIREMENTS=requirements/all.txt
    else
        REQUIREMENTS=requirements/without-libero.txt
    fi
}

fingerprint() {
    printf '%s\n' "$PWD" "$REQUIREMENTS"
    sha256sum "$REQUIREMENTS" pyproject.toml launch/setup.sh
}

# Print one package's lines of the requirement file: its version and hashes.
entry() { awk -v start="^$1==" '$0 ~ start { inside = 1 } inside { print } inside && !/\\$/ { exit }' "$REQUIREMENTS"; }

install_packages() {
    local install=("$UV" pip install --python "$VENV/bin/python" --compile-bytecode --no-deps)
    [ "$REQUIREMENTS" = requirements/all.txt ] ||
        say "no C++ compiler, so the LIBERO suite is left out; for it: apt-get install -y g++, then make setup"
    say "installing $(grep -c == "$REQUIREMENTS") packages (about 7 GB on disk; the first time that is some minutes of downloading)"
    # The packages without wheels are built by cmake, which is itself one of the packages; the policy variable lets the
    # present cmake read their old build files.
    if grep -q ^cmake== "$REQUIREMENTS"; then entry cmake | "${install[@]}" --quiet --require-hashes -r -; fi
    PATH="$PWD/$VENV/bin:$PATH" CMAKE_POLICY_VERSION_MINIMUM=3.5 "${install[@]}" --require-hashes -r "$REQUIREMENTS"
    # hatchling is among them, so the project itself needs nothing more.
    "${install[@]}" --quiet --no-build-isolation --editable .
}

set_up() {
    choose_requirements
    local wanted
    wanted=$(fingerprint)
    if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ] && [ -x "$VENV/bin/python" ]; then return; fi
    [ "$(uname -sm)" = "Linux x86_64" ] || say "the requirement files are made for Linux x86_64, this is $(uname -sm); it may not work"
    find_uv
    make_venv
    install_packages
    # One line on what is missing if nothing can be rendered; everything else works without.
    "$VENV/bin/python" -m vla_cl.doctor --only rendering --only-problems >&2 || true
    printf '%s\n' "$wanted" >"$STAMP"
    say "ready; \`source $VENV/bin/activate\` lets the shell find vla-cl, or type $VENV/bin/vla-cl"
}

# --- for developers ---------------------------------------------------------------------------------------------------

compile_requirements() { # OUTPUT EXTRA...
    local output=$1 extra arguments=()
    shift
    for extra in "$@"; do arguments+=(--extra "$extra"); done
    say "compiling $output"
    "$UV" pip compile --quiet --python "$VENV/bin/python" --python-platform "$PLATFORM" "${arguments[@]}" pyproject.toml \
        --override requirements/overrides.txt --generate-hashes --no-header --no-annotate \
        -o "$output" >/dev/null
}

lock() {
    find_uv
    make_venv
    compile_requirements requirements/all.txt metaworld robosuite libero dev tensorboard
    compile_requirements requirements/without-libero.txt metaworld robosuite dev tensorboard
}

try_wheel() {
    find_uv
    FOLDER=$(mktemp -d)
    trap 'rm -rf "$FOLDER"' EXIT
    "$UV" venv --quiet --python "$VENV/bin/python" "$FOLDER/venv"
    "$UV" pip install --quiet --python "$FOLDER/venv/bin/python" --constraint requirements/without-libero.txt dist/vla_cl-*.whl
    cd "$FOLDER"
    say "installed the wheel into an empty environment; vla-cl --help says:"
    venv/bin/vla-cl --help
    venv/bin/python -c 'import vla_cl.conf, vla_cl.envs, vla_cl.policies'
}

case "${1:-install}" in
    install) set_up ;;
    lock) lock ;;
    try-wheel) try_wheel ;;
    *) fail "expected nothing, 'lock' or 'try-wheel', not '$1'" ;;
esac
