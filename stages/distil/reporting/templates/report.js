
// Without this script, the page shows everything and the filters stay hidden.
for (const section of document.querySelectorAll("[data-filtered]")) {
  const search = section.querySelector("input");
  const selects = [...section.querySelectorAll(".filter select")];
  const count = section.querySelector("output");
  const cards = [...section.querySelectorAll("article")];
  const texts = cards.map((card) => card.textContent.toLowerCase());
  const fits = (card) => (select) =>
    !select.value || card.dataset[select.name].split(" ").includes(select.value);
  // If the answers are compared with a stored run, say which option that run chose.
  const showRun = (card, run) => {
    const line = card.querySelector("[data-runs]");
    if (!line) return;
    const place = run && line.dataset.runs.split(" ")[run.dataset.run];
    const option = place && card.querySelectorAll(".option")[place];
    line.hidden = !option;
    line.textContent = option ? `${run.text}: ${option.textContent}` : "";
  };
  const filter = () => {
    const sought = search.value.trim().toLowerCase();
    const run = section.querySelector("option[data-run]:checked");
    let shown = 0;
    cards.forEach((card, n) => {
      card.hidden = !(texts[n].includes(sought) && selects.every(fits(card)));
      shown += !card.hidden;
      showRun(card, run);
    });
    count.textContent = `${shown} of ${cards.length} questions`;
  };
  search.addEventListener("input", filter);
  selects.forEach((select) => select.addEventListener("change", filter));
  section.querySelector(".filter").hidden = false;
  filter();
}
