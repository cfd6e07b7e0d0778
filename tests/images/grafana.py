"""Stands in for Grafana: keeps its data in SQLite, migrates it forward only, and honours the variables that we set."""

import base64
import glob
import http.server
import json
import os
import signal
import sqlite3
import sys

VERSION = int(os.environ["VERSION"])
DATA = os.environ.get("GF_PATHS_DATA", "/var/lib/grafana")


def open_database():
    database = sqlite3.connect(os.path.join(DATA, "grafana.db"))
    database.execute("create table if not exists state (version integer, password text, note text)")
    row = database.execute("select version from state").fetchone()
    if row is None:
        with open(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]) as file:
            database.execute("insert into state values (?, ?, '')", (VERSION, file.read().strip()))
    elif row[0] > VERSION:
        sys.exit(f"the database was migrated to version {row[0]}, and this is version {VERSION}")
    else:
        database.execute("update state set version = ?", (VERSION,))
    database.commit()
    if VERSION == 13 and os.path.exists(os.path.join(DATA, "sick")):
        sys.exit("it hurts")
    return database


# What `grafana cli admin reset-admin-password --password-from-stdin` does.
if sys.argv[1:]:
    assert sys.argv[1:] == ["cli", "admin", "reset-admin-password", "--password-from-stdin"], sys.argv
    database = sqlite3.connect(os.path.join(DATA, "grafana.db"))
    database.execute("update state set password = ?", (sys.stdin.read().strip(),))
    database.commit()
    sys.exit(0)

# As process 1 it would not hear this by itself.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
DATABASE = open_database()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/api/health":
            return self.answer(200, {"database": "ok", "version": str(VERSION)})
        version, password, note = DATABASE.execute("select version, password, note from state").fetchone()
        token = base64.b64encode(f"admin:{password}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {token}":
            return self.answer(401, {"message": "Unauthorized"})
        provisioning = os.environ["GF_PATHS_PROVISIONING"]
        sources = [open(path).read() for path in glob.glob(f"{provisioning}/datasources/*.yaml")]
        return self.answer(200, {"version": version, "note": note, "sources": sources})

    def do_POST(self):
        note = self.rfile.read(int(self.headers["Content-Length"])).decode()
        DATABASE.execute("update state set note = ?", (note,))
        DATABASE.commit()
        self.answer(200, {})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


address = os.environ.get("GF_SERVER_HTTP_ADDR", "0.0.0.0"), int(os.environ.get("GF_SERVER_HTTP_PORT", "3000"))
http.server.HTTPServer(address, Handler).serve_forever()
