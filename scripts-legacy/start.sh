#!/bin/sh
# Deploys rather than starts: in the guide this is also the first start, and the one after a change of settings.
set -eu
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" deploy "$@"
