#!/bin/sh
set -eu
case "${1-}" in
# Parts of what verify always proves.
docker | llm | ollama | monitoring | quick) shift ;;
mistral | aider) echo "error: cargo xtask verify has no checks for $1" >&2 && exit 2 ;;
esac
exec "$(dirname "$(readlink -f "$0")")/../../xtask.sh" verify "$@"
