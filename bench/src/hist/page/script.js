// Read-outs under the pointer. Everything is computed from what is drawn.
"use strict";
(() => {
  const readout = document.getElementById("readout");
  const number = (element, name) => Number(element.dataset[name]);
  const time = (ns) => {
    const [value, unit] =
      ns < 999.5 ? [ns, "ns"] : ns < 999.5e3 ? [ns / 1e3, "µs"] : ns < 999.5e6 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
    return `${value.toFixed(unit === "ns" || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2)} ${unit}`;
  };
  const latency = (plot, y) => {
    const share = (number(plot, "bottom") - y) / (number(plot, "bottom") - number(plot, "top"));
    return number(plot, "low") * (number(plot, "high") / number(plot, "low")) ** share;
  };
  const show = (event, lines) => {
    readout.textContent = lines.join("\n");
    readout.hidden = false;
    const { width, height } = readout.getBoundingClientRect();
    const left = event.clientX + 16 + width > innerWidth ? event.clientX - 16 - width : event.clientX + 16;
    readout.style.left = `${Math.max(4, left)}px`;
    readout.style.top = `${Math.max(4, Math.min(event.clientY + 16, innerHeight - height - 4))}px`;
  };
  // Height of a line at x; none beyond its ends.
  const at = (points, x) => {
    const after = points.findIndex((point) => point[0] >= x);
    if (after < 0 || x < points[0][0]) return null;
    if (after === 0) return points[0][1];
    const [[x0, y0], [x1, y1]] = [points[after - 1], points[after]];
    return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0 || 1);
  };
  const percentile = (nines) => {
    const beyond = 100 * 10 ** -nines;
    return `${(100 - beyond).toFixed(Math.max(0, Math.ceil(nines)))}%`;
  };
  for (const plot of document.querySelectorAll("g.percentiles, g.heat")) {
    const svg = plot.closest("svg");
    const [left, right] = [number(plot, "left"), number(plot, "right")];
    const [top, bottom] = [number(plot, "top"), number(plot, "bottom")];
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", top);
    cursor.setAttribute("y2", bottom);
    cursor.style.display = "none";
    plot.append(cursor);
    const curves = [...plot.querySelectorAll(".curve")].map((curve) => ({
      name: curve.dataset.name,
      points: [...curve.points].map((point) => [point.x, point.y]),
    }));
    const hide = () => {
      cursor.style.display = "none";
      readout.hidden = true;
    };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      if (x < left || x > right || y < top || y > bottom) return hide();
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.style.display = "";
      const share = (x - left) / (right - left);
      if (plot.matches(".percentiles")) {
        const lines = [percentile(share * number(plot, "nines"))];
        for (const { name, points } of curves) {
          const height = at(points, x);
          if (height !== null) lines.push(`${name}: ${time(latency(plot, height))}`);
        }
        return show(event, lines);
      }
      const second = number(plot, "start") + share * (number(plot, "end") - number(plot, "start"));
      const lines = [`${second.toFixed(1)} s, ${time(latency(plot, y))}`];
      const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest(".cell");
      if (cell?.dataset.samples) lines.push(`${cell.dataset.samples} samples`);
      show(event, lines);
    });
  }
})();
