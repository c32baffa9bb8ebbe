#!/usr/bin/env bash
# resight: builds its Python environment on first use, then runs the command line (python -m papers).
#
#   PYTHON=python3.12    the Python that builds the environment (default: the newest found)
#   RESIGHT_VENV=DIR     where the environment is (default: .venv beside this file)
#
# Runs with bash 3.2, as macOS has it.

set -u
unset CDPATH  # cd would print where it went

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv=${RESIGHT_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=$venv/bin/python
pins=$root/requirements.lock
stamp=$venv/resight-stamp            # written last: the environment is complete for these pins and this Python
unfinished=$venv/resight-unfinished  # there while packages are being installed
log=$venv/resight-install.log
lock=$venv.lock                      # a symbolic link to "host:process", which ln makes and fills in one step
locked=
child=

fail() {
    printf '%s\n' "$*" >&2
    exit 2
}

minor_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }
state() { printf '%s python %s\n' "$(cksum <"$pins")" "$1"; }

ready() {
    [ -f "$stamp" ] || return 1
    local version
    version=$(minor_version "$python") || return 1
    [ "$(cat "$stamp")" = "$(state "$version")" ]
}

unlock() {
    [ -z "$locked" ] || rm -f "$lock"
    locked=
}

interrupted() {
    trap '' INT TERM
    [ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null
    unlock
    printf '\nStopped while setting up %s; the next call goes on.\n' "$venv" >&2
    exit 130
}

# One call sets up, others wait for it. A lock whose process is gone is taken over.
take_lock() {
    local owner said= tries=0
    mkdir -p "$(dirname "$venv")" 2>/dev/null && [ -w "$(dirname "$venv")" ] ||
        fail "Cannot write to $(dirname "$venv"); set RESIGHT_VENV to a folder that can hold the environment."
    until ln -s "$(uname -n):$$" "$lock" 2>/dev/null; do
        if ! owner=$(readlink "$lock"); then  # given back in between, or it cannot be made
            tries=$((tries + 1))
            [ "$tries" -lt 20 ] ||
                fail "Cannot make the link $lock (the disk is full, or something else has that name); make room or remove it, and call again."
            sleep 0.1
            continue
        fi
        if [ "${owner%:*}" = "$(uname -n)" ] && ! kill -0 "${owner##*:}" 2>/dev/null; then
            [ "$(readlink "$lock")" != "$owner" ] || rm -f "$lock"
            continue
        fi
        [ -n "$said" ] || printf 'Waiting for another call (%s) that sets up %s; if it is gone, remove %s.\n' \
            "$owner" "$venv" "$lock" >&2
        said=yes
        sleep 1
    done
    locked=yes
}

# The Python that builds the environment, into $base.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON does not run or is older than Python 3.10."
        base=$PYTHON
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3.10 python3 python; do
        if new_enough "$candidate"; then
            base=$candidate
            return
        fi
    done
    fail "Python 3.10 or newer was not found; install it (with its venv module) or name one: PYTHON=/path/to/python3 $0"
}

# Runs a command with its output in the log, and shows how long it takes.
logged() {
    local what=$1 start=$SECONDS status
    shift
    "$@" >>"$log" 2>&1 &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        [ ! -t 2 ] || printf '\r\033[K%s, %d s: %.70s' "$what" $((SECONDS - start)) "$(tail -n 1 "$log")" >&2
        sleep 0.2
    done
    wait "$child"
    status=$?
    child=
    [ ! -t 2 ] || printf '\r\033[K' >&2
    return $status
}

# One sentence on why the installation failed, from what it wrote.
explain() {
    if grep -qiE 'no space left|disk quota exceeded' "$log"; then
        fail "The disk is full: the environment needs about 6 GB in $venv and in the temporary folder; make room, or set RESIGHT_VENV and TMPDIR, and call again."
    elif grep -qiE 'name resolution|resolve host|nodename nor servname|establish a new connection|connection refused|network is unreachable|connecttimeout|read timed out|dns error|error sending request' "$log"; then
        fail "No network: the pinned packages could not be downloaded (details in $log); connect and call again."
    elif grep -qi 'ensurepip' "$log"; then
        fail "$base cannot make virtual environments; install its venv module (on Debian and Ubuntu the package python3-venv) or uv, and call again."
    fi
    fail "$1 failed: $(grep -i error "$log" | tail -n 1 | cut -c 1-200) (all of it in $log); mend that and call again."
}

set_up() {
    local free version repair=
    if ! new_enough "$python" || { [ -f "$stamp" ] && [ "$(sed 's/.* python //' "$stamp")" != "$(minor_version "$python")" ]; }; then
        find_python
        if [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
            [ -f "$venv/pyvenv.cfg" ] || [ -f "$unfinished" ] ||
                fail "$venv is not a Python environment; move it away or set RESIGHT_VENV to another folder."
            rm -rf "$venv"
        fi
    else
        base=$python
        [ ! -f "$unfinished" ] || repair=yes
    fi
    { mkdir -p "$venv" && : >"$unfinished" && : >"$log"; } 2>/dev/null ||
        fail "Cannot write to $venv (no permission, or the disk is full); mend that or set RESIGHT_VENV to another folder."
    rm -f "$stamp"
    printf 'Setting up %s with the pinned packages (first use: some minutes, 5 GB).\n' "$venv" >&2
    # The pins are complete; what they leave out (see tool.uv in pyproject.toml) is left out on purpose, hence --no-deps.
    if command -v uv >/dev/null; then
        [ -x "$python" ] || logged "environment" uv venv --allow-existing --python "$base" "$venv" ||
            explain "Making the environment"
        logged "packages" uv pip install --compile-bytecode --no-deps --python "$python" ${repair:+--reinstall} -r "$pins" ||
            explain "Installing the packages"
    else
        if [ ! -x "$python" ]; then
            free=$(df -Pk "$venv" | awk 'NR == 2 { print int($4 / 1048576) }')
            [ "$free" -ge 6 ] ||
                fail "Too little disk: the environment needs about 6 GB in $venv, $free GB are free; make room or set RESIGHT_VENV to a folder on a larger disk."
        fi
        "$python" -m pip --version >/dev/null 2>&1 || logged "environment" "$base" -m venv "$venv" ||
            explain "Making the environment"
        logged "packages" "$python" -m pip install --disable-pip-version-check --no-deps ${repair:+--force-reinstall} -r "$pins" ||
            explain "Installing the packages"
    fi
    version=$(minor_version "$python") || fail "$python does not run; remove $venv and call again."
    { state "$version" >"$stamp.part" && mv "$stamp.part" "$stamp"; } ||
        fail "Cannot write to $venv; make room or mend its permissions, and call again."
    rm -f "$unfinished"
}

case ${1:-help} in
-h | --help | help)
    cat "$root/papers/_commands/help.txt"
    exit
    ;;
esac

if ! ready; then
    trap interrupted INT TERM
    trap unlock EXIT
    take_lock
    ready || set_up
    unlock
    trap - INT TERM EXIT
fi

# The code runs from the checkout, whatever folder the command is called from; paths stay relative to that folder.
export RESIGHT_CALLED_FROM=$PWD
unset PYTHONSAFEPATH
export PYTHONUTF8=1  # names of files are UTF-8 in every locale
# glibc gives freed memory of large tensors back to the kernel, and the page faults of getting it again can cost more
# than the arithmetic of a training step on a CPU; keep up to a gigabyte instead. Others ignore these.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1073741824}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-1073741824}"
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-67108864}"
cd "$root" || exit 2
exec "$python" -m papers "$@"
