# Judges what an agent wrote, by running it: `first` registers a user, `restarted` finds it again in another process.
# Says what is wrong and exits 1, or says that it works.
import ast
import pathlib
import sys

USER = {"username": "ada", "password": "correct horse"}


def check(what, answer, *wanted):
    if answer.status_code not in wanted:
        body = " ".join(answer.get_data(as_text=True).split())[:200]
        sys.exit(f"{what} answers {answer.status_code}, not {wanted[0]}: {body}")


def judge(stage):
    sys.dont_write_bytecode = True
    sys.path.insert(0, ".")
    for file in pathlib.Path(".").rglob("*.py"):
        ast.parse(file.read_text(), str(file))
    from app import app

    client = app.test_client()
    if stage == "first":
        check("/register", client.post("/register", json=USER), 201, 200)
    anonymous = app.test_client()
    check("/me without a login", anonymous.get("/me"), 401)
    wrong = {**USER, "password": "wrong"}
    check("/login with a wrong password", anonymous.post("/login", json=wrong), 401)
    check("/me after a refused login", anonymous.get("/me"), 401)
    where = "" if stage == "first" else " after a restart"
    client = app.test_client()
    check(f"/login{where}", client.post("/login", json=USER), 200)
    me = client.get("/me")
    check(f"/me{where}", me, 200)
    if USER["username"] not in me.get_data(as_text=True):
        sys.exit(f"/me does not tell the username: {me.get_data(as_text=True)[:200]}")
    if not any(file.read_bytes().startswith(b"SQLite format 3") for file in pathlib.Path(".").rglob("*.db")):
        sys.exit("there is no SQLite database")


try:
    judge(sys.argv[1])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("it works")
