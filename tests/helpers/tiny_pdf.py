"""Writes PDF files by hand, so that what pypdfium2 reads was not written by it."""


def pdf(pages: list[str], outline: list[tuple[str, int]]) -> bytes:
    """A PDF of 144 x 72 points a page; page i has a red left half if i is even, else a blue one, and a line of text.

    Args:
        pages: The text of each page.
        outline: Titles and pages, counted from 0, all on one level.
    """
    first_page, first_entry = 4, 4 + 2 * len(pages)
    kids = " ".join(f"{first_page + 2 * i} 0 R" for i in range(len(pages)))
    outlines = f" /Outlines {first_entry} 0 R" if outline else ""
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R{outlines} >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        draw = f"{'1 0 0' if i % 2 == 0 else '0 0 1'} rg 0 0 72 72 re f 0 g BT /F 8 Tf 76 40 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 144 72] /Contents {first_page + 2 * i + 1} 0 R "
            "/Resources << /Font << /F 3 0 R >> >> >>",
            f"<< /Length {len(draw)} >>\nstream\n{draw}\nendstream",
        ]
    if outline:
        last = first_entry + len(outline)
        objects.append(f"<< /Type /Outlines /First {first_entry + 1} 0 R /Last {last} 0 R /Count {len(outline)} >>")
    for i, (title, page) in enumerate(outline):
        me = first_entry + 1 + i
        before = f" /Prev {me - 1} 0 R" if i else ""
        after = f" /Next {me + 1} 0 R" if i + 1 < len(outline) else ""
        objects.append(
            f"<< /Title ({title}) /Parent {first_entry} 0 R{before}{after} /Dest [{first_page + 2 * page} 0 R /Fit] >>"
        )
    content = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    trailer = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return content + f"{trailer}startxref\n{len(content)}\n%%EOF\n".encode()
