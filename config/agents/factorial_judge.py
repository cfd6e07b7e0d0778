# Judges what an agent wrote, by running it. Says what is wrong and exits 1, or says that it works.
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, ".")
try:
    from factorial import factorial

    for n, wanted in [(5, 120), (0, 1), (20, 2432902008176640000)]:
        found = factorial(n)
        if found != wanted:
            sys.exit(f"factorial({n}) is {found!r}, not {wanted}")
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("it works")
