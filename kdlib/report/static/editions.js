/* The switch between data sets keeps the place: the section that is being read, and the view of the
   explorer as far as the other edition can have it.

   The address then holds both:  labels.html#layer=block3&at=until-when-does-it-pay
   or the section alone:         labels.html#until-when-does-it-pay                                  */
(() => {
  "use strict";
  const OWN = ["left", "right", "selected", "hidden", "epoch", "at"]; // runs, images and classes of one study
  const LINE = 260; // pixels below the top; to focus the switch may scroll by some

  /** The section whose heading is the last above the line; empty at the top of the page. */
  function place() {
    if (scrollY < 40) return "";
    const sections = [...document.querySelectorAll("article section[id] section[id]")];
    return sections.filter((section) => section.getBoundingClientRect().top < LINE).pop()?.id || "";
  }
  /** What the address says of the explorer, without what belongs to one study. */
  function view() {
    if (!location.hash.includes("=")) return "";
    const settings = location.hash.slice(1).split("&");
    return settings.filter((setting) => !OWN.includes(setting.split("=")[0])).join("&");
  }
  function go(event) {
    const link = event.currentTarget;
    if (link.getAttribute("aria-current")) return event.preventDefault();
    const same = link.pathname.split("/").pop() === location.pathname.split("/").pop();
    const [section, settings] = same ? [place(), view()] : ["", ""];
    link.hash = settings && section ? `${settings}&at=${section}` : settings || section;
  }
  function arrive() {
    for (const link of document.querySelectorAll(".kd-editions a")) link.addEventListener("click", go);
    const at = /[#&]at=([^&]+)/.exec(location.hash);
    if (at) document.getElementById(at[1])?.scrollIntoView();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", arrive);
  else arrive();
})();
