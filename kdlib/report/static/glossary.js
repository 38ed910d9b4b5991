/* Shows what a term means: for the mouse, the keyboard (Tab, Escape) and a finger (a first tap shows, a second follows).

   glossary.py has made the first use of each term on a page a link, with the meaning as its title.          */
(() => {
  "use strict";
  const links = [...document.querySelectorAll("a.kd-term")];
  if (!links.length) return;
  const box = Object.assign(document.createElement("div"), { id: "kd-meaning", hidden: true });
  box.setAttribute("role", "tooltip");
  document.body.append(box);
  let open = null;
  let leaving = 0;

  function show(link) {
    clearTimeout(leaving);
    if (open === link) return;
    hide();
    open = link;
    box.textContent = link.dataset.meaning;
    box.hidden = false;
    link.setAttribute("aria-describedby", box.id);
    const word = link.getClientRects()[0];
    const { offsetWidth: wide, offsetHeight: high } = box;
    const below = word.bottom + high + 10 < innerHeight;
    box.style.left = `${Math.max(8, Math.min(word.left, document.documentElement.clientWidth - wide - 8)) + scrollX}px`;
    box.style.top = `${(below ? word.bottom + 4 : word.top - high - 4) + scrollY}px`;
  }
  function hide() {
    clearTimeout(leaving);
    if (open) open.removeAttribute("aria-describedby");
    open = null;
    box.hidden = true;
  }
  const soon = () => { leaving = setTimeout(hide, 200); }; // time to move onto the box

  for (const link of links) {
    link.dataset.meaning = link.title;
    link.removeAttribute("title");
    if (link.querySelector(".math")) link.setAttribute("aria-label", link.dataset.meaning); // a drawn formula has no words
    let shown = null; // what was open when a finger came down
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(link); });
    link.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") soon(); });
    link.addEventListener("pointerdown", (event) => { shown = event.pointerType === "mouse" ? link : open; });
    link.addEventListener("focus", () => show(link));
    link.addEventListener("blur", soon);
    link.addEventListener("click", (event) => {
      if (shown === link || event.detail === 0) return; // a mouse, a second tap, or Enter: follow it
      event.preventDefault();
      show(link);
    });
  }
  box.addEventListener("pointerenter", () => clearTimeout(leaving));
  box.addEventListener("pointerleave", soon);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("pointerdown", (event) => { if (open && !box.contains(event.target) && !event.target.closest?.("a.kd-term")) hide(); });
})();
