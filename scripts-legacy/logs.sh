#!/bin/sh
# The guide's own follows, and shows Ollama unless told otherwise.
set -eu
[ $# -gt 0 ] || set -- ollama
exec "$(dirname "$(readlink -f "$0")")/xtask.sh" logs --follow "$@"
