#!/bin/sh
set -eu
xtask="$(dirname "$(readlink -f "$0")")/xtask.sh"
case "$*" in
up | "up -d") exec "$xtask" deploy ;;
down | "down "*) shift && exec "$xtask" stop "$@" ;;
ps | "ps "*) shift && exec "$xtask" status "$@" ;;
start | stop | restart | logs | "start "* | "stop "* | "restart "* | "logs "*) exec "$xtask" "$@" ;;
esac
echo "error: no verb does \`$*\`; cargo xtask has deploy, start, stop, restart, status, logs" >&2
exit 2
