// What every screen has to be: no sideways scrolling, one h1, named plots, tables with heads, contrasts of AA.
// Its value is what is wrong.
(() => {
  const wrong = [];
  const seen = (node) => node.getClientRects().length && getComputedStyle(node).visibility !== "hidden";
  // not innerWidth: on a phone the window widens to what it shows
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) wrong.push("scrolls sideways");
  if ([...document.querySelectorAll("h1")].filter(seen).length !== 1) wrong.push("not one h1");
  let depth = 1;
  for (const title of document.querySelectorAll("main h1, main h2, main h3")) {
    const level = Number(title.tagName[1]);
    if (level > depth + 1) wrong.push(`heading ${title.textContent} skips a level`);
    depth = level;
  }
  for (const plot of document.querySelectorAll("svg:not([aria-hidden])")) {
    if (seen(plot) && !(plot.getAttribute("role") === "img" && plot.getAttribute("aria-label"))) wrong.push("a plot without words");
  }
  for (const table of document.querySelectorAll("table")) {
    if (seen(table) && !(table.caption && table.querySelector("th[scope=col]") && (!table.tBodies[0].rows.length || table.querySelector("th[scope=row]")))) wrong.push("a table without heads");
  }
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgb = (colour) => { if (!known.has(colour)) known.set(colour, drawn(colour)); return known.get(colour); };
  const drawn = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
  const light = (colour) => { const [r, g, b] = [...colour].slice(0, 3).map((c) => (c / 255 <= .04045 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4)); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (node) => { for (let at = node; at; at = at.parentElement) { const found = rgb(getComputedStyle(at).backgroundColor); if (found[3]) return found; } };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const parent = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !seen(parent) || parent.closest(".unseen, .skip, noscript")) continue;
    const style = getComputedStyle(parent), a = light(rgb(parent.closest("svg") ? style.fill : style.color)), b = light(ground(parent));
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) wrong.push(`${parent.textContent.slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return wrong;
})()
