// Sorts and filters the trials' table. Without it the table reads just the same.
(function () {
  "use strict";
  var table = document.getElementById("table");
  if (!table) return;
  var body = table.tBodies[0], rows = Array.prototype.slice.call(body.rows);
  var filter = document.getElementById("filter"), only = document.getElementById("only");
  var shown = document.getElementById("shown");

  function value(cell) { return "v" in cell.dataset ? cell.dataset.v : cell.textContent; }

  function compare(column, numeric, sign) {
    return function (a, b) {
      var x = value(a.cells[column]), y = value(b.cells[column]);
      if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays at the end
      return sign * (numeric ? x - y : x.localeCompare(y));
    };
  }

  Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click", function () {
      var ascending = head.getAttribute("aria-sort") !== "ascending";
      Array.prototype.forEach.call(table.tHead.rows[0].cells, function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      rows.sort(compare(column, head.classList.contains("n"), ascending ? 1 : -1));
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });

  rows.forEach(function (row) { row.words = row.textContent.toLowerCase(); });

  function apply() {
    var words = filter.value.toLowerCase().split(/\s+/).filter(Boolean), count = 0;
    rows.forEach(function (row) {
      var kept = words.every(function (word) { return row.words.indexOf(word) >= 0; }) &&
        (!only.checked || row.classList.contains("front"));
      row.hidden = !kept;
      count += kept;
    });
    shown.textContent = count + " of " + rows.length;
  }

  document.querySelector(".tools").hidden = false;
  filter.addEventListener("input", apply);
  only.addEventListener("change", apply);
  document.addEventListener("click", function (event) {
    // A row that is filtered away cannot be gone to.
    var link = event.target.closest && event.target.closest("a[href^='#t'], a[*|href^='#t']");
    if (link) { filter.value = ""; only.checked = false; apply(); }
  });
  apply();
})();
