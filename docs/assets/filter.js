// A field that filters the rows of the tables below it, on pages that have <input class="table-filter">.
document.addEventListener("input", (event) => {
  const field = event.target;
  if (!(field instanceof HTMLInputElement) || !field.classList.contains("table-filter")) return;
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const table of document.querySelectorAll(".md-content table")) {
    const frame = table.closest(".md-typeset__scrollwrap") ?? table;
    const before = frame.previousElementSibling;
    const heading = before?.matches("h1, h2, h3, h4") ? before : null;
    const about = (heading?.textContent ?? "").toLowerCase();
    let shown = 0;
    for (const row of table.querySelectorAll("tbody tr")) {
      const text = `${about} ${row.textContent.toLowerCase()}`;
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    frame.hidden = shown === 0;
    if (heading) heading.hidden = shown === 0;
  }
});
