#!/usr/bin/env bash
# Stands in for Python where reproduce.sh is tested: makes environments, "installs", and says what it was asked.
# FAKE_VERSION: its version; FAKE_PIP: what pip does (fine, no-network, no-space, broken, slow); FAKE_LOG: what was run.
case "$*" in
*"sys.exit(sys.version_info < (3, 10))"*)
    minor=${FAKE_VERSION#3.}
    [ "$minor" -ge 10 ]
    ;;
*'print("%d.%d"'*)
    echo "$FAKE_VERSION"
    ;;
"-m venv "*)
    echo "venv" >>"$FAKE_LOG"
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    : >"$3/pyvenv.cfg"
    ;;
"-m pip --version")
    echo "pip 25"
    ;;
"-m pip install "*)
    echo "$*" >>"$FAKE_LOG"
    case ${FAKE_PIP:-fine} in
    no-network)
        echo "WARNING: Retrying after connection broken by NewConnectionError: Temporary failure in name resolution"
        echo "ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: none)"
        exit 1
        ;;
    no-space)
        echo "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
        exit 1
        ;;
    broken)
        echo "Collecting torch"
        echo "ERROR: torch-2.11.0 is not a supported wheel on this platform."
        exit 1
        ;;
    slow)
        sleep 30
        ;;
    brief)
        sleep 0.5
        ;;
    esac
    ;;
"-m papers"*)
    shift 2
    printf 'papers <%s> in %s from %s\n' "$*" "$PWD" "$RESIGHT_CALLED_FROM"
    exit "${FAKE_STATUS:-0}"
    ;;
*)
    echo "fake python does not know: $*" >&2
    exit 97
    ;;
esac
