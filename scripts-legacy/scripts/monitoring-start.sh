#!/bin/sh
# One at a time, so that what this stack does not have (exit code 10) keeps none of the others from it.
set -eu
if [ $# -gt 0 ]; then echo "error: no arguments here; cargo xtask start COMPONENT takes one" >&2 && exit 2; fi
xtask="$(dirname "$(readlink -f "$0")")/../xtask.sh" outcome=10
for component in prometheus alertmanager grafana node-exporter; do
    code=0 && "$xtask" start "$component" || code=$?
    case $code in 0) outcome=0 ;; 10) ;; *) exit "$code" ;; esac
done
exit "$outcome"
