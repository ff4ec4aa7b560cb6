/** What a client has had of the answers to its request, in case that must be made again: it gets none of it twice. */
import { ServerFrames } from "./server-frames.ts";

export abstract class ServerAnswers extends ServerFrames {
  /** How many answers the client already had before its request was made again. */
  hidePrelude = 0;
  /** Of the answers that the client has seen: those that only say that parsing, binding or closing worked. */
  preludeSeen = 0;
  /** The shape of the rows that were described among these. */
  rowsSeen = 0;

  /** Answers that are the same wherever a request is made; those that the client has had already are hidden. */
  protected prelude(): boolean {
    if (this.hidePrelude > 0) {
      this.hidePrelude--;
      return false;
    }
    this.preludeSeen++;
    return true;
  }

  /** The one that a client has had already must be the same as that of the request when it is made again. */
  protected rowDescription(hash: number): boolean {
    if (this.rowsSeen !== 0 && this.hidePrelude === 0) this.answersSeen++;
    const hidden = !this.prelude();
    if (hidden && hash !== this.rowsSeen) {
      this.answersSeen++;
      this.close("the columns of a request have changed since it was made first");
    }
    this.rowsSeen = hash;
    return !hidden;
  }
}
