// What the theme makes, for readers without a mouse or without eyes: it renders each page through this observable.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  // The theme wraps tables and puts buttons over code by scripts of its own; ours comes behind them.
  requestAnimationFrame(() => {
    // Boxes that scroll, by keyboard too. One that does not on this screen may on a narrower one.
    for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) box.tabIndex = 0;
    // A button over each block of code is no part of the site that one goes to.
    for (const bar of document.querySelectorAll(".md-code__nav")) bar.setAttribute("role", "none");
  });
});
