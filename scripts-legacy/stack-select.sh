#!/bin/sh
# There is nothing to select: this stack's engine is Ollama.
set -eu
case "$*" in
list | current) echo ollama ;;
"select ollama") echo "the engine is Ollama already; cargo xtask init writes its settings" >&2 ;;
*) echo "error: there is only ollama to select; cargo xtask init --runtime says how it runs" >&2 && exit 2 ;;
esac
