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
echo "need $nonce $(uname -s) $(uname -m)";
read -r size sum || exit 0;
mkdir -p "$root/bin" || exit 73;
new="$root/bin/.new-$id-$$";
echo "ready $nonce";
head -c "$size" > "$new" || { rm -f "$new"; exit 74; };
got=$( (sha256sum "$new" || shasum -a 256 "$new") 2>/dev/null );
case "$got" in "$sum "*) ;; *) rm -f "$new"; echo "damaged $nonce"; exit 65;; esac;
chmod 755 "$new";
exec "$new" host serve --root="$root" --nonce="$nonce";
