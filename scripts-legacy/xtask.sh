#!/bin/sh
# Runs a verb of `cargo xtask`, whatever the current folder is: with cargo where there is cargo, else with the program
# that a deploy left on this machine. The shims beside this file call it with their new names.
set -eu
checkout=$(dirname "$(dirname "$(readlink -f "$0")")")

if [ -f "$checkout/xtask/Cargo.toml" ] && command -v cargo >/dev/null; then
    # What the alias in .cargo/config.toml says. Nothing changes folder, so that file names mean what the caller means.
    exec cargo run --manifest-path "$checkout/Cargo.toml" --bin xtask -- "$@"
fi

stack="${HOME-}/frontier-llm-stack/bin/xtask"
sandbox="$checkout/.sandbox/bin/xtask"
# Without a stack.toml the sandbox is meant, so its own program comes first.
if [ -e "$checkout/stack.toml" ]; then first=$stack second=$sandbox; else first=$sandbox second=$stack; fi
# As cargo would, this tells the program where the checkout is.
export CARGO_MANIFEST_DIR="$checkout/xtask"
for program in "$first" "$second"; do
    if [ -f "$program" ] && [ -x "$program" ]; then exec "$program" "$@"; fi
done
cat >&2 <<END
error: there is neither cargo nor a deployed program to run \`xtask${1+ $1}\` with
cause: looked for cargo on PATH, for $first and for $second

hint: install cargo (https://rustup.rs), or run bin/xtask under your stack's root
END
exit 1
