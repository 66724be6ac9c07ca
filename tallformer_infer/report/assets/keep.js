// Where the review is kept: at the server that gave the page, or else, as for a copy of such a page, in this browser.
const isServed = DATA.review && location.protocol.startsWith("http");
const keepReview = isServed ? saveAtServer : saveInBrowser;
const restoreReview = isServed ? restoreFromServer : restoreFromBrowser;

// Under the hash of the result, so that another page of the same result shows it, too.
const STORED = "tallformer-review-" + DATA.key;

function saveInBrowser() {
  try {
    localStorage.setItem(STORED, JSON.stringify(reviewDocument()));
    sayReview("Kept in this browser.");
  } catch {
    sayReview("This browser keeps nothing for this page: export before you close it.");
  }
}

async function restoreFromBrowser() {
  try {
    const kept = localStorage.getItem(STORED);
    if (!kept) return;
    restore(JSON.parse(kept));
    sayReview("Restored what this browser kept.");
  } catch {
    sayReview("This browser keeps nothing for this page.");
  }
}

// `tag` names the review that this page has seen: the server takes no other's place.
const saving = { tag: null, isWanted: false, isRunning: false };

async function saveAtServer() {
  saving.isWanted = true;
  if (saving.isRunning) return;
  saving.isRunning = true;
  sayReview("Saving …");
  try {
    while (saving.isWanted) {
      saving.isWanted = false;
      await put(reviewDocument());
    }
    sayReview("Saved.");
  } catch (error) {
    saving.isWanted = true;
    sayReview("Not saved: " + error.message);
    if (error instanceof TypeError) setTimeout(saveAtServer, 3000); // the server did not answer
  }
  saving.isRunning = false;
}

async function put(review) {
  if (saving.tag === null) throw new Error("the review could not be loaded; load the page again.");
  const headers = { "Content-Type": "application/json", "If-Match": saving.tag };
  const answer = await fetch(DATA.review, { method: "PUT", headers, body: JSON.stringify(review) });
  if (!answer.ok) throw new Error(await reasonOf(answer));
  saving.tag = answer.headers.get("ETag");
}

async function restoreFromServer() {
  try {
    const answer = await fetch(DATA.review);
    if (!answer.ok) throw new Error(await reasonOf(answer));
    const review = await answer.json();
    if (review.videos.length) restore(review);
    saving.tag = answer.headers.get("ETag");
    sayReview(review.videos.length ? "Loaded what was saved." : "");
  } catch (error) {
    sayReview("The review cannot be loaded: " + error.message);
  }
}

async function reasonOf(answer) {
  const { detail } = await answer.json().catch(() => ({}));
  return typeof detail === "string" ? detail : "the server answers " + answer.status;
}

addEventListener("beforeunload", (event) => {
  if (saving.isWanted || saving.isRunning) event.preventDefault(); // the browser asks
});
