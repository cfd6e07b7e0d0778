# What every connection runs first, on whatever the host is. It is sent as one line inside single quotes of a login shell
# that may be dash, bash, zsh, fish or tcsh, so it has no single quote, no backslash, no exclamation mark; comments and
# line ends are taken out. Nothing that a user wrote is in it: nonce, wanted program and root come on standard input.
read -r nonce id root;
case "$root" in "~/"*) root="$HOME/${root#??}";; esac;
own="$root/bin/xtask";
if [ -x "$own" ]; then
  if [ "$id" = any ] || [ "$(cat "$own.id" 2>/dev/null)" = "$id" ]; then
    exec "$own" host serve --root="$root" --nonce="$nonce";
  fi;
fi;
PATH="$PATH:$HOME/.cargo/bin:/opt/homebrew/bin:/usr/local/bin";
cargo=$(command -v cargo);
building=$(ls "$root/build" 2>/dev/null | head -n 1);
echo "need $nonce $(uname -s) $(uname -m) ${cargo:+cargo} ${building:+building}";
read -r kind size sum triple || exit 0;
mkdir -p "$root/bin" || exit 73;
new="$root/bin/.new-$id-$$";
echo "ready $nonce";
head -c "$size" > "$new" || { rm -f "$new"; exit 74; };
got=$( (sha256sum "$new" || shasum -a 256 "$new") 2>/dev/null );
case "$got" in "$sum "*) ;; *) rm -f "$new"; echo "damaged $nonce"; exit 65;; esac;
# Sources are built here, by a process that outlives the connection: whoever comes next finds it, and follows it. Each
# takes a copy; who installs the program removes the build.
if [ "$kind" = sources ]; then
  build="$root/build/$id";
  if mkdir -p "$root/build" && mkdir "$build" 2>/dev/null; then
    mkdir "$build/src" && gzip -dc < "$new" | tar -xf - -C "$build/src" || { rm -rf "$build"; exit 74; };
    case "$triple" in *linux*) flags="-C target-feature=+crt-static";; *) flags="";; esac;
    ( trap "" HUP; cd "$build/src"; export STACK_PROGRAM_ID="$id" RUSTFLAGS="$flags";
      "$cargo" build --locked --profile ship --bin xtask --target "$triple" --target-dir target;
      echo $? > ../code; mv ../code ../ended ) </dev/null >"$build/log" 2>&1 &
    jobs -p > "$build/pid";
  fi;
  pid=$(cat "$build/pid");
  until [ -e "$build/ended" ]; do
    echo "building $nonce $(tail -n 1 "$build/log")"; sleep 1;
    kill -0 "$pid" 2>/dev/null || [ -e "$build/ended" ] || echo 1 > "$build/ended" || exit 70;
  done;
  if [ "$(cat "$build/ended")" = 0 ]; then cp "$build/src/target/$triple/ship/xtask" "$new" || exit 74;
  else tail -n 30 "$build/log" >&2; rm -rf "$build" "$new"; exit 70;
  fi;
fi;
chmod 755 "$new";
exec "$new" host serve --root="$root" --nonce="$nonce";
