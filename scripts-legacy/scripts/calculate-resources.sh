#!/bin/sh
set -eu
exec "$(dirname "$(readlink -f "$0")")/../xtask.sh" tune --dry-run "$@"
