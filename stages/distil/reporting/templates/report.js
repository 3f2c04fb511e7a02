
for (const section of document.querySelectorAll("section[data-filtered]")) {
  const search = section.querySelector("input");
  const kind = section.querySelector("select");
  const count = section.querySelector("output");
  const cards = [...section.querySelectorAll("article")];
  const texts = cards.map((card) => card.textContent.toLowerCase());
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    cards.forEach((card, n) => {
      const kinds = card.dataset.kinds.split(" ");
      card.hidden = !(texts[n].includes(wanted) && (!kind.value || kinds.includes(kind.value)));
      shown += !card.hidden;
    });
    count.textContent = `${shown} of ${cards.length} questions`;
  };
  search.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  section.querySelector(".filter").hidden = false;
  filter();
}
