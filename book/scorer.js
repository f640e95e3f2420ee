/* The order of search results: lessons first, then pages about the course, modules and files last. */
"use strict";
var Scorer = {
  score: ([page, , , , score]) =>
    score + (page.startsWith("lessons/") ? 30 : /^(api|source|solutions)\//.test(page) ? -30 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
