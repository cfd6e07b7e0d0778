"""Stands in for macmon: its words are those of 0.8.2 (src/app/main.rs), and so is what it answers (src/app/serve.rs)."""

import http.server
import sys

METRICS = {
    "cpu_temp_celsius": 43.7,
    "gpu_temp_celsius": 36.9,
    "gpu_active_ratio": 0.09,
    "gpu_power_watts": 0.5,
    "sys_power_watts": 5.9,
    "memory_ram_used_bytes": 20985479168,
}


class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = "{}"
        if self.path == "/metrics":
            lines = (f'# TYPE macmon_{name} gauge\nmacmon_{name}{{chip="Apple M2 Ultra"}} {value}\n' for name, value in METRICS.items())
            text = "".join(lines)
        self.send_response(200 if self.path in ("/", "/metrics") else 404)
        self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


match sys.argv[1:]:
    case ["--version"]:
        print("macmon 0.8.2")
    case ["serve", "--host", "127.0.0.1" as host, "--port", port]:
        http.server.ThreadingHTTPServer((host, int(port)), Door).serve_forever()
    case words:
        sys.exit(print(f"error: unexpected argument in {words}", file=sys.stderr) or 2)
