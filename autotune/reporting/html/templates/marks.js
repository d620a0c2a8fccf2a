// Marks of the front plots: a tooltip by hover, keyboard and touch; a click selects the trial's row in the table.
// Without it a mark is a link to the row, and the browser shows its title.
(function () {
  "use strict";
  var tip = document.createElement("div"), shownFor = null, selected = null;
  tip.className = "tip";
  tip.setAttribute("role", "tooltip");
  tip.id = "tip";
  tip.hidden = true;
  document.body.appendChild(tip);

  function hide() {
    tip.hidden = true;
    if (shownFor) { shownFor.classList.remove("active"); shownFor.link.removeAttribute("aria-describedby"); }
    shownFor = null;
  }

  function show(mark) {
    if (shownFor === mark) return;
    hide();
    shownFor = mark;
    mark.classList.add("active");
    mark.link.setAttribute("aria-describedby", "tip");
    tip.textContent = mark.text;
    tip.hidden = false;
    var box = mark.link.getBoundingClientRect(), own = tip.getBoundingClientRect(), gap = 10;
    var left = box.left + box.width / 2 - own.width / 2;
    left = Math.max(gap, Math.min(left, document.documentElement.clientWidth - own.width - gap));
    var top = box.top - own.height - gap;
    if (top < gap) top = box.bottom + gap;
    tip.style.left = left + window.scrollX + "px";
    tip.style.top = top + window.scrollY + "px";
  }

  function select(row) {
    if (selected) selected.classList.remove("selected");
    selected = row;
    row.classList.add("selected");
    row.tabIndex = -1;
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "center" });
  }

  Array.prototype.forEach.call(document.querySelectorAll("figure .trial"), function (mark) {
    var title = mark.querySelector("title"), link = mark.querySelector("a");
    if (!title || !link) return;
    var row = document.getElementById(link.getAttribute("href").slice(1)), touched = false;
    mark.link = link;
    mark.text = title.textContent;
    title.remove();
    link.setAttribute("aria-label", mark.text);
    if (row && !row.classList.contains("front")) link.setAttribute("tabindex", "-1");
    mark.addEventListener("pointerenter", function (event) { if (event.pointerType === "mouse") show(mark); });
    mark.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse") hide(); });
    // The first touch shows the tooltip, the second one goes to the row.
    link.addEventListener("pointerdown", function (event) {
      touched = event.pointerType !== "mouse" && shownFor !== mark;
    });
    link.addEventListener("focus", function () { if (!touched) show(mark); });
    link.addEventListener("blur", hide);
    link.addEventListener("click", function (event) {
      event.preventDefault();
      if (touched) { touched = false; show(mark); return; }
      hide();
      if (row) select(row);
    });
  });
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") hide(); });
  document.addEventListener("pointerdown", function (event) {
    if (shownFor && !shownFor.contains(event.target)) hide();
  });
})();
