/* Plays a part of what the page's player holds. */

let watched = null; // the function that stops it

/** From `start` to `end`, seconds; one that is playing gives way. */
export function playSpan(player, start, end) {
  if (watched) player.removeEventListener("timeupdate", watched);
  watched = () => {
    if (player.currentTime < end) return;
    player.removeEventListener("timeupdate", watched);
    watched = null;
    player.pause();
  };
  player.currentTime = start;
  player.addEventListener("timeupdate", watched);
  return player.play();
}
