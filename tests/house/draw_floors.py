"""Draws `docs/floors.svg` from `floors.toml` and the imports: `python tests/house/draw_floors.py`."""

import sys
from xml.sax.saxutils import escape

if __name__ == "__main__":
    from pathlib import Path

    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]

from house import ROOT, Room, read_imports, read_rooms, room_of

PICTURE = ROOT / "docs" / "floors.svg"
WIDTH, MARGIN = 1200, 20  # px, as are all lengths here
ROW_HEIGHT, BOX_HEIGHT = 60, 48
BOX_LEFT, BOX_WIDTH = 110, 470
STYLE = """
  text { font-family: sans-serif; fill: #222; font-size: 13px }
  .floor { fill: #777 }
  .room { font-size: 15px; font-weight: bold }
  .contents { fill: #444 }
  .imports { fill: #555 }
  .server { fill: #fdf0dc; stroke: #c98a2b }
  .operator { fill: #e3eefb; stroke: #3d74b4 }
"""


def draw() -> str:
    """The picture as SVG text: a row for each room, the ground at the bottom, and the rooms that it imports."""
    rooms = sorted(read_rooms().values(), key=lambda room: (-room.floor, room.name))
    height = 2 * MARGIN + ROW_HEIGHT * len(rooms)
    rows = [line for row, room in enumerate(rooms) for line in _draw_room(room, MARGIN + row * ROW_HEIGHT)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    paper = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", paper, *rows, "</svg>", ""])


def _draw_room(room: Room, top: int) -> list[str]:
    side = "server" if room.name.startswith("mailkeep_server") else "operator"
    imported = ", ".join(_imported_rooms(room)) or "nothing of the house"
    return [
        _text("floor", MARGIN, top + 28, f"floor {room.floor}"),
        f'<rect class="{side}" x="{BOX_LEFT}" y="{top}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>',
        _text("room", BOX_LEFT + 12, top + 20, room.name),
        _text("contents", BOX_LEFT + 12, top + 38, room.contents),
        _text("imports", BOX_LEFT + BOX_WIDTH + 16, top + 28, f"imports {imported}"),
    ]


def _text(kind: str, left: int, baseline: int, text: str) -> str:
    return f'<text class="{kind}" x="{left}" y="{baseline}">{escape(text)}</text>'


def _imported_rooms(room: Room) -> list[str]:
    """The last words of the names of the rooms that this one imports, from the top down."""
    rooms = {room_of(edge.imported) for edge in read_imports() if room_of(edge.importer) == room} - {room}
    ordered = sorted(rooms, key=lambda imported: (-imported.floor, imported.name))
    return [imported.name.removeprefix("mailkeep.").replace("mailkeep_server.", "server ") for imported in ordered]


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"{PICTURE.relative_to(ROOT)} is written")
