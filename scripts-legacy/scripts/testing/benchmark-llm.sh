#!/bin/sh
set -eu
case "${1-}" in
compare) echo "error: name the models that are to stand side by side: cargo xtask bench MODEL MODEL" >&2 && exit 2 ;;
esac
exec "$(dirname "$(readlink -f "$0")")/../../xtask.sh" bench "$@"
