// Shows the values under the pointer; what is shown lies in each picture's attributes.
"use strict";
document.querySelectorAll("svg[data-tips]").forEach(function (picture) {
  const tips = JSON.parse(picture.dataset.tips);
  const names = JSON.parse(picture.dataset.names);
  const cross = picture.querySelector(".cross");
  const box = picture.parentNode.querySelector(".tip");
  const dots = names.map(function (name) {
    const dot = document.createElementNS(picture.namespaceURI, "circle");
    dot.setAttribute("class", "dot " + name[1]);
    dot.setAttribute("r", "3.5");
    dot.setAttribute("visibility", "hidden");
    return picture.appendChild(dot);
  });
  function hide() {
    box.hidden = true;
    cross.setAttribute("visibility", "hidden");
    dots.forEach(function (dot) { dot.setAttribute("visibility", "hidden"); });
  }
  function nearest(x) {
    return tips.reduce(function (best, tip) {
      return Math.abs(tip.x - x) - Math.abs(best.x - x) > 0 ? best : tip;
    });
  }
  function row(text, value, colour) {
    const line = document.createElement("div");
    if (colour) {
      line.className = colour;
      line.appendChild(document.createElement("i"));
    }
    line.appendChild(document.createTextNode(text));
    if (value) {
      const bold = document.createElement("b");
      bold.textContent = value;
      line.appendChild(bold);
    }
    box.appendChild(line);
  }
  function show(event) {
    if (tips.length === 0) { return; }
    const frame = picture.getBoundingClientRect();
    const scale = picture.viewBox.baseVal.width / frame.width;
    const tip = nearest((event.clientX - frame.left) * scale);
    cross.setAttribute("x1", tip.x);
    cross.setAttribute("x2", tip.x);
    cross.setAttribute("visibility", "visible");
    box.textContent = "";
    row(tip.name);
    tip.values.forEach(function (value, index) {
      dots[index].setAttribute("visibility", value ? "visible" : "hidden");
      if (!value) { return; }
      row(names[index][0], value[0], names[index][1]);
      dots[index].setAttribute("cx", tip.x);
      dots[index].setAttribute("cy", value[1]);
    });
    box.hidden = false;
    const left = tip.x / scale;
    const isRight = left > frame.width / 2;
    box.style.left = (isRight ? left - box.offsetWidth - 12 : left + 12) + "px";
  }
  picture.addEventListener("pointermove", show);
  picture.addEventListener("pointerleave", hide);
});
