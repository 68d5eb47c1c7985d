"""A small simulated copy of RxRx19a and RxRx1, and a server of it that can fail."""

import hashlib
import io
import sys
import threading
import zipfile
import zlib
from base64 import b64encode
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
from PIL import Image

SIDE = 8


def site(experiment, plate, well, number, **more):
    well_id = f"{experiment}_{plate}_{well}"
    return {
        "site_id": f"{well_id}_{number}",
        "well_id": well_id,
        "cell_type": experiment.partition("-")[0],
        "experiment": experiment,
        "plate": plate,
        "well": well,
        "site": number,
    } | more


def rxrx19a_table():
    """Two experiments, each with a plate 1, and one with a plate 2."""
    rows = []
    for experiment, plate in (("HRCE-1", 1), ("HRCE-1", 2), ("VERO-1", 1)):
        for well, treatment in (("AA02", None), ("AA03", "NA"), ("B04", "Remdesivir")):
            condition = None if treatment == "NA" else "Active SARS-CoV-2"
            for number in (1, 2):
                rows.append(
                    site(
                        experiment,
                        plate,
                        well,
                        number,
                        disease_condition=condition if treatment else "Mock",
                        treatment=treatment,
                        treatment_conc=0.3 if treatment else None,
                        SMILES="CC(C)=O |r|" if treatment else None,
                    )
                )
    return pd.DataFrame(rows)


def rxrx1_table():
    rows = []
    for dataset, experiment in (("train", "HUVEC-01"), ("test", "U2OS-05")):
        for k, well in enumerate(("B02", "B03")):
            common = {
                "dataset": dataset,
                "well_type": "treatment" if k else "negative_control",
                "sirna": "s21721" if k else "EMPTY",
                "sirna_id": 747 if k else 1138,
            }
            rows += [site(experiment, 1, well, n, **common) for n in (1, 2)]
    table = pd.DataFrame(rows)
    names = ["site_id", "well_id", "cell_type", "dataset"]
    return table[names + [name for name in table if name not in names]]


def pixels(site_id, channel):
    """An image that is this file's alone."""
    seed = zlib.crc32(f"{site_id}_{channel}".encode())
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), np.uint8)


def png(site_id, channel):
    file = io.BytesIO()
    Image.fromarray(pixels(site_id, channel)).save(file, "PNG")
    return file.getvalue()


def image_files(table, n_channels, scheme="images/{experiment}"):
    return {
        f"{scheme.format(**row)}/Plate{row['plate']}/{row['well']}_s{row['site']}"
        f"_w{w}.png": png(row["site_id"], w)
        for row in table.to_dict("records")
        for w in range(1, n_channels + 1)
    }


def embeddings(table, n):
    values = np.random.default_rng(0).normal(size=(len(table), n))
    columns = [f"feature_{k}" for k in range(n)]
    return pd.DataFrame(values.round(4), columns=columns).assign(
        site_id=table["site_id"]
    )[["site_id", *columns]]


def csv(table):
    return table.to_csv(index=False).encode()


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def rxrx19a():
    """What lies under the address of RxRx19a, by path."""
    table = rxrx19a_table()
    images = image_files(table, 5)
    # Out of order, since nobody promises any.
    features = embeddings(table, 1024).iloc[::-1]
    return images | {
        "RxRx19a-metadata.zip": zipped({"RxRx19a/metadata.csv": csv(table)}),
        "RxRx19a-DL-embeddings.zip": zipped({"RxRx19a/embeddings.csv": csv(features)}),
        "RxRx19a-images.zip": zipped(
            {f"RxRx19a/{name}": data for name, data in images.items()},
            zipfile.ZIP_STORED,
        ),
    }


def rxrx1():
    table = rxrx1_table()
    images = {f"rxrx1/{n}": data for n, data in image_files(table, 6).items()}
    return {
        "rxrx1-metadata.zip": zipped({"rxrx1/metadata.csv": csv(table)}),
        "rxrx1-dl-embeddings.zip": zipped(
            {"rxrx1/embeddings.csv": csv(embeddings(table, 128))}
        ),
        "rxrx1-images.zip": zipped(images),
    }


class Server:
    """Serves ``files``; what goes wrong is set by the test.

    breaks: path -> numbers of bytes after which the next answers break off.
    fails: path -> statuses of the next answers.
    """

    def __init__(self, files):
        self.files = dict(files)
        self.breaks = {}
        self.fails = {}
        self.ranges = True
        self.tags = True
        self.lengths = True
        self.headers = {}
        self.requests = []  # (path, range or None)
        self.sent = 0
        self.url = ""

    def paths(self):
        return [path for path, _ in self.requests]


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = self.path.lstrip("/")
            asked = self.headers.get("Range")
            server.requests.append((path, asked))
            if server.fails.get(path):
                return self.answer(server.fails[path].pop(0), b"failed")
            if path not in server.files:
                return self.answer(404, b"<Error>NoSuchKey</Error>")
            return self.serve(path, asked)

        def serve(self, path, asked):
            data = server.files[path]
            headers = list(server.headers.get(path, []))
            if server.tags:
                tag = zlib.crc32(data[0 : 2**20]) ^ len(data)
                headers.append(("ETag", f'"{tag}"'))
            status, body = 200, data
            if asked and server.ranges:
                first, last = asked.removeprefix("bytes=").split("-")
                stop = min(int(last) + 1 if last else len(data), len(data))
                if int(first) >= len(data):
                    return self.answer(
                        416, b"", [("Content-Range", f"bytes */{len(data)}")]
                    )
                status, body = 206, data[int(first) : stop]
                span = f"bytes {first}-{stop - 1}/{len(data)}"
                headers.append(("Content-Range", span))
            return self.answer(status, body, headers, path)

        def answer(self, status, body, headers=(), path=None):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if server.lengths:
                self.send_header("Content-Length", str(len(body)))
            else:
                self.close_connection = True
                self.send_header("Connection", "close")
            self.end_headers()
            if path is not None and server.breaks.get(path):
                body = body[: server.breaks[path].pop(0)]
                self.close_connection = True
            server.sent += len(body)
            self.wfile.write(body)

    return Handler


class _Http(ThreadingHTTPServer):
    def handle_error(self, *where):
        if not isinstance(sys.exception(), ConnectionError):  # clients may hang up
            super().handle_error(*where)


@contextmanager
def serve(files):
    server = Server(files)
    http = _Http(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def md5_header(data):
    md5 = b64encode(hashlib.md5(data).digest()).decode()
    return [("x-goog-hash", "crc32c=AAAAAA=="), ("x-goog-hash", f"md5={md5}")]


def leftovers(folder):
    """Files of temporary names."""
    return [
        path
        for path in folder.rglob("*")
        if path.name.startswith((".", "tmp")) or path.suffix in (".part", ".zip")
    ]
